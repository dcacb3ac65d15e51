"""Arrays and volumes."""

import numpy as np

from napari_medverse import Volume

from .kit import SHAPE, bad


@bad(
    "context pair 'head 1': image (6, 7, 8) and label (6, 7, 9) differ in shape; pair arrays "
    "of one grid"
)
def image_and_label_of_different_shape(w):
    w.pair(label=w.label((6, 7, 9)))


@bad("'target': a 3D array is needed, got shape (6, 7); a single slice is not a volume")
def two_dimensional_target(w):
    w.ask(w.image((6, 7)))


@bad("'target': a 3D array is needed, got shape (2, 6, 7, 8); choose one time point or channel")
def four_dimensional_target(w):
    w.ask(w.image((2, 6, 7, 8)))


@bad(
    "'target': a 3D array is needed, got shape (6, 7, 8, 3); an RGB image must be converted to "
    "one channel first"
)
def colour_target(w):
    w.ask(w.image((6, 7, 8, 3)))


@bad("'target': a path is no volume; read the file first (napari_medverse.io.read_nifti)")
def target_that_is_no_array(w):
    w.ask("scan.nii.gz")


@bad("'head 1': dtype complex128 cannot be used; give real numbers (integers, floats or booleans)")
def complex_image(w):
    w.pair(w.image().astype(complex))


@bad("'head 1': dtype object cannot be used; give real numbers (integers, floats or booleans)")
def image_of_objects(w):
    w.pair(np.full(SHAPE, None, dtype=object))


@bad("'target': the array is empty (shape (6, 0, 8))")
def axis_of_length_zero(w):
    w.ask(w.image((6, 0, 8)))


@bad("'mouse 4': 1 voxels are NaN or infinite; replace them (numpy.nan_to_num) before use")
def nan_in_the_target(w):
    image = w.image()
    image[1, 2, 3] = np.nan
    w.ask(Volume(image, name="mouse 4"))


@bad("'head 1': 2 voxels are NaN or infinite; replace them (numpy.nan_to_num) before use")
def infinity_in_a_context_image(w):
    image = w.image()
    image[:2, 2, 3] = np.inf
    w.pair(image)


@bad("'head 1 (label)': 1 voxels are NaN or infinite; replace them (numpy.nan_to_num) before use")
def nan_in_a_label(w):
    label = w.label().astype(np.float32)
    label[0, 0, 0] = np.nan
    w.pair(label=label)


@bad("'mouse 4': every voxel of the target has the same value; choose another scan")
def constant_target(w):
    w.ask(Volume(np.ones(SHAPE), name="mouse 4"))


@bad(
    "context pair 'head 1': the image is constant, so nothing can be learnt from it; remove "
    "the pair or choose another image"
)
def constant_context_image(w):
    w.ask(pairs=[w.pair(np.ones(SHAPE))])


@bad("every label is empty ('head 1'): paint the structure in one")
def empty_label(w):
    w.ask(pairs=[w.pair(label=np.zeros(SHAPE, np.uint8))])


@bad(
    "context pair 'head 1': the label holds negative values (down to -3); label values must be "
    "0 (background) or more"
)
def negative_labels(w):
    w.pair(label=w.label().astype(np.int16) - 3)


@bad(
    "context pair 'head 1': the label holds fractions, so it is no label map; use task='image' "
    "or round it"
)
def fractional_labels(w):
    w.pair(label=w.image(), task="labels")


@bad("'mouse 4': the affine cannot be inverted; correct the spacing and the orientation")
def singular_affine(w):
    Volume(w.image(), np.diag([1.0, 0.0, 1.0, 1.0]), "mouse 4")


@bad("'mouse 4': the affine must be a 4x4 matrix of finite numbers")
def affine_with_nan(w):
    Volume(w.image(), np.full((4, 4), np.nan), "mouse 4")


@bad("'mouse 4': spacing must be three positive numbers, got (1, -1, 1)")
def negative_spacing(w):
    Volume.from_array(w.image(), spacing=(1, -1, 1), name="mouse 4")


@bad("'mouse 4': spacing must be three positive numbers, got (1, 1)")
def two_numbers_of_spacing(w):
    Volume.from_array(w.image(), spacing=(1, 1), name="mouse 4")
