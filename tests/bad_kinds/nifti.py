"""NIfTI files, read and written."""

import gzip

import numpy as np

from napari_medverse.io import read_nifti, write_nifti

from .kit import SHAPE, bad, full_disk


@bad("{folder}/gone.nii.gz: no such file; check the path.")
def missing_file(w):
    read_nifti(w.folder / "gone.nii.gz")


@bad("{folder}/scan.nii.gz: is a folder; name a .nii or .nii.gz file in it.")
def folder_for_a_file(w):
    (w.folder / "scan.nii.gz").mkdir()
    read_nifti(w.folder / "scan.nii.gz")


@bad(
    "{folder}/scan.tif: only NIfTI (.nii, .nii.gz) is read; open it in napari and save it as "
    ".nii.gz."
)
def file_of_another_kind(w):
    read_nifti(w.file("scan.tif", b"II*"))


@bad("{folder}/scan.nii: is empty; copy or export it again.")
def empty_file(w):
    read_nifti(w.file("scan.nii", b""))


@bad("{folder}/scan.nii: is not a NIfTI file despite its name; convert it to NIfTI.")
def text_named_nifti(w):
    read_nifti(w.file("scan.nii", b"this is no scan " * 50))


@bad(
    "{folder}/scan.nii: is damaged or cut short (its header states 1,696 bytes, more than it "
    "can hold); copy or export it again."
)
def truncated_nifti(w):
    path = w.nifti()
    read_nifti(w.file("scan.nii", path.read_bytes()[:-100]))


@bad("{folder}/scan.nii.gz: is damaged or cut short (...); copy or export it again.")
def truncated_gzip(w):
    path = w.nifti("scan.nii.gz")
    read_nifti(w.file("scan.nii.gz", path.read_bytes()[:-100]))


@bad("{folder}/scan.nii.gz: is damaged or cut short (...); copy or export it again.")
def gzip_with_a_wrong_checksum(w):
    content = bytearray(w.nifti("scan.nii.gz").read_bytes())
    content[-6] ^= 255
    read_nifti(w.file("scan.nii.gz", bytes(content)))


@bad(
    "{folder}/scan.nii.gz: holds far more than the 1,696 bytes that its header states; copy or "
    "export it again."
)
def gzip_that_unpacks_to_more_than_a_scan(w):
    bomb = w.nifti().read_bytes() + bytes(2**26)
    read_nifti(w.file("scan.nii.gz", gzip.compress(bomb)))


@bad(
    "{folder}/scan.nii: is damaged or cut short (its header states 108,000,000,000,352 bytes, "
    "more than it can hold); copy or export it again."
)
def nifti_that_states_a_huge_shape(w):
    read_nifti(w.nifti(dim=[3, 30000, 30000, 30000, 1, 1, 1, 1]))


@bad(
    "{folder}/scan.nii.gz: is damaged or cut short (its header states 108,000,000,000,352 "
    "bytes, more than it can hold); copy or export it again."
)
def gzip_that_states_a_huge_shape(w):
    read_nifti(w.nifti("scan.nii.gz", dim=[3, 30000, 30000, 30000, 1, 1, 1, 1]))


@bad("{folder}/scan.nii: holds no 3D volume, its shape is (6, -7, 8).")
def nifti_of_negative_shape(w):
    read_nifti(w.nifti(dim=[3, 6, -7, 8, 1, 1, 1, 1]))


@bad("{folder}/scan.nii: is damaged or cut short (...); copy or export it again.")
def nifti_of_an_unknown_dtype(w):
    read_nifti(w.nifti(datatype=999))


@bad("{folder}/scan.nii: holds colours (RGB); convert it to grey values.")
def nifti_in_colour(w):
    data = np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")])
    read_nifti(w.nifti(data=data))


@bad("{folder}/scan.nii: holds complex numbers; save their magnitude instead.")
def complex_nifti(w):
    read_nifti(w.nifti(data=np.zeros(SHAPE, np.complex64)))


@bad(
    "{folder}/scan.nii: has 4 axes (6, 7, 8, 2), but one 3D volume is needed; save the volume "
    "you want on its own."
)
def nifti_of_several_volumes(w):
    read_nifti(w.nifti(data=w.image((*SHAPE, 2))))


@bad("{folder}/scan.nii: holds no 3D volume, its shape is (6, 7).")
def nifti_of_one_slice(w):
    read_nifti(w.nifti(data=w.image((6, 7))))


@bad(
    "{folder}/scan.nii: has 5 axes (6, 7, 8, 2, 2); at most 4 can be opened, save its parts on "
    "their own."
)
def nifti_of_five_axes_in_napari(w):
    from napari_medverse.io.layers import read_layers

    read_layers(w.nifti(data=w.image((*SHAPE, 2, 2))))


@bad(
    "{folder}/scan.nii: its affine [[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0], [0.0, 0.0, "
    "1.0, 0.0], [0.0, 0.0, 0.0, 1.0]] has no usable spacing or orientation; set both."
)
def nifti_with_a_singular_affine(w):
    flat = {"srow_x": [1, 0, 0, 0], "srow_y": [0, 0, 0, 0], "srow_z": [0, 0, 1, 0]}
    read_nifti(w.nifti(sform_code=1, **flat))


@bad(
    "{folder}/scan.nii: its affine [[nan, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, "
    "1.0, 0.0], [0.0, 0.0, 0.0, 1.0]] has no usable spacing or orientation; set both."
)
def nifti_with_nan_in_its_affine(w):
    read_nifti(w.nifti(sform_code=1, srow_x=[np.nan, 0, 0, 0]))


@bad("'scan': 336 voxels are NaN or infinite; replace them (numpy.nan_to_num) before use")
def nifti_with_nan_voxels_as_target(w):
    w.ask(read_nifti(w.nifti(data=np.full(SHAPE, np.nan, np.float32))))


@bad("{folder}/out.tif: NIfTI files end in .nii or .nii.gz; rename the output.")
def output_of_another_kind(w):
    write_nifti(w.folder / "out.tif", w.image())


@bad(
    "{folder}/results/out.nii.gz: the folder {folder}/results does not exist; create it or "
    "choose another."
)
def output_in_a_folder_that_is_not_there(w):
    write_nifti(w.folder / "results" / "out.nii.gz", w.image())


@bad("{folder}/out.nii.gz: values of type object cannot be stored as NIfTI.")
def output_of_objects(w):
    write_nifti(w.folder / "out.nii.gz", np.full(SHAPE, None, dtype=object))


@bad("photo: is a colour image; convert it to grey values to save it.")
def layer_in_colour_saved_as_nifti(w):
    from napari_medverse.io._npe2 import write_image

    write_image(str(w.folder / "out.nii"), w.image((*SHAPE, 3)), {"rgb": True, "name": "photo"})


@bad("slice label: has 2 axes; NIfTI needs a 3D or 4D layer.")
def layer_of_two_axes_saved_as_nifti(w):
    from napari_medverse.io._npe2 import write_labels

    write_labels(str(w.folder / "out.nii"), w.label()[0], {"name": "slice label"})


@bad(
    "{folder}/out.nii.gz: cannot be written (File too large); free some space or choose "
    "another folder."
)
def disk_full_while_a_scan_is_written(w):
    write_nifti(w.folder / "out.nii.gz", w.label())
    before = (w.folder / "out.nii.gz").read_bytes()
    try:
        with full_disk():
            write_nifti(w.folder / "out.nii.gz", w.image((64, 64, 64)))
    finally:
        assert (w.folder / "out.nii.gz").read_bytes() == before
        assert [path.name for path in w.folder.iterdir()] == ["out.nii.gz"]
