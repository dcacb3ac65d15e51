"""Embedding banks."""

from dataclasses import replace

import numpy as np

from napari_medverse.bank import Bank
from napari_medverse.bank.entry import Space
from napari_medverse.bank.export import export
from napari_medverse.bank.sources import keep, path_of
from napari_medverse.inference import ContextPair
from napari_medverse.io.datasets import find_datasets

from .kit import bad

SPACE = Space("features-1-64:0123456789", "mini", 4, 4, (1, 4))


@bad("'{folder}' holds no bank; make one with 'napari-medverse bank add DIR --bank {folder}'")
def folder_without_a_bank(w):
    Bank.open(w.folder)


@bad("'{folder}' is no bank of napari-medverse; choose another folder")
def table_of_something_else(w):
    import lancedb

    lancedb.connect(w.folder).create_table("objects", [{"id": "a"}])
    Bank.open(w.folder)


@bad("the bank '{folder}' cannot be opened: ...")
def damaged_bank(w):
    Bank.create(w.folder, SPACE)
    for file in (w.folder / "objects.lance" / "_versions").iterdir():
        file.write_bytes(b"cut")
    Bank.open(w.folder)


@bad("the bank '{folder}/file' cannot be made: ...")
def file_in_a_banks_place(w):
    w.file("file", b"")
    Bank.create(w.folder / "file", SPACE)


@bad("the bank '{folder}' belongs to 'mini' (features-1-64:01234567), not to 'other' "
     "(features-1-64:9): embeddings of different weights cannot be compared; choose the bank's "
     "model, or another bank")  # fmt: skip
def bank_of_other_weights(w):
    Bank.create(w.folder, SPACE)
    Bank.create(w.folder, replace(SPACE, fingerprint="features-1-64:9", model="other"))


@bad("'head' has no files, and 'file://{folder}' takes none: save image and label as NIfTI and "
     "add those")  # fmt: skip
def pair_from_memory_for_an_object_store(w):
    bank = Bank.create(w.folder.as_uri(), SPACE)
    pair = ContextPair(np.eye(4)[None], np.ones((1, 4, 4), int), "head")
    keep(bank, pair, ("a", "b"))


@bad("s3://lab/head.nii.gz: is not on this machine; copy it here and add it again")
def source_elsewhere(w):
    path_of(Bank.create(w.folder, SPACE), "s3://lab/head.nii.gz")


@bad("{folder}/out.xls: end the name in .json, .csv, .parquet")
def export_to_another_format(w):
    export(Bank.create(w.folder, SPACE), w.folder / "out.xls")


@bad("dataset '{folder}' has 0 annotated scans; 1 at least are needed")
def folder_without_scans(w):
    for kind in ("images", "labels"):
        (w.folder / kind).mkdir()
    find_datasets(w.folder)
