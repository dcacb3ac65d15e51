"""Walk through docs/retrieval.md with a bank of 62 cases, in the window and in a terminal.

    xvfb-run -s "-screen 0 1600x1000x24" python scripts/retrieval.py

Made-up anatomies and sample heads are indexed from a folder, a new head is opened, its neighbours
are shown, the best four of each class become the context and the preview is photographed. Then the
same from the command line. Both ways the result is compared with that of four random pairs a
class, and the walk ends with an error where the retrieved ones are not better. Look at the pictures
before they are committed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from napari_medverse.evaluation.made_up import made_up_cohorts
from napari_medverse.evaluation.metrics import dice
from napari_medverse.inference import Volume
from napari_medverse.io import read_nifti, write_nifti
from napari_medverse.paths import CACHE_VARIABLE
from napari_medverse.samples import sample_specimen
from screenshots import IMAGES, turn_events
from tutorial import PLUGIN, Walk

#: label values, whatever the anatomy
CLASSES = {"bone": 1, "brain": 2, "fluid": 3, "organ": 4}
ANATOMIES, SPECIMENS, HEADS = 9, 6, 8
#: bone and brain: what the new head is searched for
WANTED = (1, 2)
TOP = 4

Pair = tuple[Path, Path]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=IMAGES, help="folder (default: docs/images)")
    parser.add_argument("--only", choices=("window", "terminal"), help="one half of the walk")
    parser.add_argument("--timeout", type=float, default=1800, help="seconds a step may take")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        # A new user's: no weights, sessions or settings of whoever runs this.
        os.environ[CACHE_VARIABLE] = place
        files = Files(Path(place))
        if options.only != "terminal":
            in_window(files, Path(place), options.out, options.timeout)
        if options.only != "window":
            in_terminal(files, Path(place) / "terminal-bank")


class Files:
    """Annotated cases on disk, and a new scan with a label that only the walk knows."""

    def __init__(self, place: Path) -> None:
        self.cases = place / "cases"
        pairs = []
        for cohort in made_up_cohorts(ANATOMIES, SPECIMENS):
            values = np.array([0, *(CLASSES[name] for name in cohort.structures)], np.uint8)
            for pair in cohort.pairs:
                dataset, _, name = pair.name.partition("/")
                label = Volume(values[pair.label.data], pair.image.affine)
                pairs.append(self._write(dataset, name, pair.image, label))
        heads = [_coarse(*sample_specimen(index)) for index in range(HEADS + 1)]
        pairs += [
            self._write("mouse_heads", f"mouse_{number}", *head)
            for number, head in enumerate(heads[:-1], start=1)
        ]
        self.scan, self.truth = place / "new_head.nii.gz", heads[-1][1].data
        write_nifti(self.scan, heads[-1][0])
        # As the retrieved ones: so many for each class among the cases that hold it.
        drawn = [pairs[i] for i in np.random.default_rng(0).permutation(len(pairs))]
        chosen: dict[Pair, None] = {}
        for value in WANTED:
            held = (pair for pair in drawn if (read_nifti(pair[1]).data == value).any())
            chosen |= dict.fromkeys(itertools.islice(held, TOP))
        self.random = list(chosen)

    def _write(self, dataset: str, name: str, image: Volume, label: Volume) -> Pair:
        folder = self.cases / dataset
        paths = folder / "images" / f"{name}.nii.gz", folder / "labels" / f"{name}.nii.gz"
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
        write_nifti(paths[0], image)
        write_nifti(paths[1], label, labels=True)
        (folder / "dataset.json").write_text(json.dumps({"labels": {"background": 0, **CLASSES}}))
        return paths

    def score(self, labels: np.ndarray) -> float:
        """Return the mean Dice of the classes wanted."""
        return float(np.mean([dice(labels == value, self.truth == value) for value in WANTED]))


def _coarse(image: Volume, label: Volume) -> tuple[Volume, Volume]:
    """Return a sample head at half its resolution, its jaw counted among the bones."""
    affine = image.affine @ np.diag([2, 2, 2, 1])
    values = np.array([0, 1, 2, 1], np.uint8)
    return (
        Volume(image.data[::2, ::2, ::2], affine),
        Volume(values[label.data[::2, ::2, ::2]], affine),
    )


def in_window(files: Files, place: Path, pictures: Path, timeout: float) -> None:
    """Index, search, use and preview with the docks."""
    walk = RetrievalWalk(pictures, place, timeout)
    try:
        walk.index(files.cases)
        walk.search(files.scan)
        retrieved = walk.preview_of_hits(files)
        random = walk.preview_of(files.random, files)
    finally:
        walk.viewer.close()
        turn_events(0.5)
    compared("window", retrieved, random)


def compared(where: str, retrieved: float, random: float) -> None:
    """Tell both Dice, and end where the retrieved pairs were not better."""
    print(f"{where}: retrieved {retrieved:.3f}, random {random:.3f}")
    if not retrieved > random:
        raise SystemExit(f"{where}: retrieved pairs were not better than random ones")


class RetrievalWalk(Walk):
    """From a folder of cases to a preview, a method a step of the page."""

    def index(self, folder: Path) -> None:
        self.retrieval = self.dock("Retrieval")
        self.retrieval.place.setText(str(self.place / "bank"))
        self.retrieval.place.returnPressed.emit()
        self.idle("the bank is looked for")
        # What Add to bank > Folder of annotated scans ... does once the folder is chosen.
        self.retrieval.model.add_folder(str(folder), "medverse-mini")
        self.idle("the folder is in the bank")
        info = self.retrieval.model.info
        self.expect(info.cases >= 60, f"{info.cases} cases are in the bank")
        print(f"  {self.retrieval.model.line}")

    def search(self, scan: Path) -> None:
        self.viewer.open(scan, plugin=PLUGIN)
        self.target = self.layers[-1]
        # Bone appears white and soft parts are still told apart.
        self.target.contrast_limits = (0, 170)
        self.look_at(self.target.name)
        self.retrieval.target.value = self.target
        self.retrieval.search.click()
        self.idle("the search is done")
        hits = self.retrieval.model.hits
        self.expect(set(WANTED) <= set(hits), f"neighbours of bone and brain, not of {set(hits)}")
        for value in WANTED:
            print("  ", value, [(h.entry.case, round(h.score, 3)) for h in hits[value][:TOP]])
        self.retrieval.draw.click()
        self.idle("the map is drawn")
        self.retrieval.tree.setCurrentItem(self.retrieval.tree.items()[0])
        # The temporary folder means nothing to a reader.
        self.retrieval.place.setText("/data/lab-bank")
        self.photograph("retrieval")

    def preview_of_hits(self, files: Files) -> float:
        self.retrieval.top.setValue(TOP)
        self.retrieval.use.click()
        self.idle("the hits are used")
        print(f"  {self.retrieval.model.line}")
        return self.predicted(files, "retrieval-preview")

    def preview_of(self, pairs: list[Pair], files: Files) -> float:
        context = self.state.context
        context.clear()
        context.add_named_files(
            [(image.name.removesuffix(".nii.gz"), image, label) for image, label in pairs]
        )
        return self.predicted(files)

    def predicted(self, files: Files, picture: str = "") -> float:
        """Let the live preview finish, accept it, and return its Dice."""
        context = self.state.context
        self.wait(lambda: not context.pending, "the pairs are looked at")
        context.choose_classes([v for v in WANTED if v in context.available_classes])
        if not self.state.preview.live:
            self.live = self.dock("Live preview")
            self.live.live.setChecked(True)
        turn_events(2)
        self.finished()
        if picture:
            self.retrieval.place.setText("/data/lab-bank")
            self.photograph(picture)
        there = set(self.layers)
        self.live.accept.click()
        (accepted,) = set(self.layers) - there
        score = files.score(np.asarray(accepted.data))
        self.layers.remove(accepted)
        return score

    def idle(self, what: str) -> None:
        model = self.retrieval.model
        self.wait(lambda: model.state == "idle", what)
        self.expect(not model.error, model.error)


def in_terminal(files: Files, bank: Path) -> None:
    """Do the same with the command line."""
    out = bank.with_name("labels.nii.gz")
    classes = ",".join(map(str, WANTED))
    run("bank", "add", files.cases, "--bank", bank)
    run("bank", "search", files.scan, "--bank", bank, "--top", TOP, "--classes", classes)
    common = (files.scan, "--classes", classes, "--out", out)
    run("predict", *common, "--bank", bank, "--top", TOP)
    retrieved = files.score(read_nifti(out).data)
    run("predict", *common, *(a for pair in files.random for a in ("--context", *pair)))
    random = files.score(read_nifti(out).data)
    compared("terminal", retrieved, random)


def run(*arguments: object) -> None:
    words = [str(argument) for argument in arguments]
    print("$ napari-medverse", *words, flush=True)
    subprocess.run([sys.executable, "-m", "napari_medverse", *words], check=True)


if __name__ == "__main__":
    main()
