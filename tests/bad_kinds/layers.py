"""Layers, as the docks meet them."""

from napari.layers import Image, Labels

from .kit import SHAPE, bad, warned


@bad("'photo' is an RGB image: convert it to one channel (Layers > Split RGB).")
def layer_in_colour(w):
    read_layer(Image(w.image((*SHAPE, 3)), rgb=True, name="photo"))


@bad("'slice': a 3D array is needed, got shape (7, 8); a single slice is not a volume")
def layer_of_two_axes(w):
    read_layer(Image(w.image()[0], name="slice"))


@bad("'movie': a 3D array is needed, got shape (2, 6, 7, 8); choose one time point or channel")
def layer_of_four_axes(w):
    read_layer(Image(w.image((2, *SHAPE)), name="movie"))


@bad("'mouse 1' cannot be both image and label: choose another.")
def layer_paired_with_itself(w):
    layer = Image(w.image(), name="mouse 1")
    context().add_pair(layer, layer)


@bad("'mouse 1' with 'mouse 1 label' is in the context set already.")
def layers_paired_twice(w):
    image, label = Image(w.image(), name="mouse 1"), Labels(w.label(), name="mouse 1 label")
    model = context()
    model.add_pair(image, label)
    model.add_pair(image, label)


@bad("'mouse 4 preview' is a preview: accept it first, then add the accepted layer.")
def preview_as_context(w):
    from napari_medverse.widgets.marks import mark

    preview = Labels(w.label(), name="mouse 4 preview", metadata=mark("preview"))
    context().add_pair(Image(w.image()), preview)


@bad(
    "No image layer and label layer fit together: they need the same shape and place, or names "
    "alike such as 'head 1' and 'head 1 label'. Otherwise choose both below and press Pair."
)
def layers_that_do_not_fit(w):
    context().add_from_layers([Image(w.image(), name="a1"), Labels(w.label((3, 3, 3)), name="b2")])


@bad(
    "No image and label among the chosen files (a1.nii, b2_seg.nii) share a name: choose both, "
    "named alike, the label with _seg, _label or _mask at its end."
)
def files_that_do_not_fit(w):
    context().add_files([w.nifti("a1.nii"), w.nifti("b2_seg.nii")])


@bad(
    "Folder folder has no imagesTr: choose the data set's folder, which holds imagesTr and "
    "labelsTr."
)
def folder_without_cases(w):
    context().add_folder(w.folder)


@bad(
    "{folder}/head.nii.gz: cannot be read (No such file or directory); put the file back or "
    "remove its row from the context set."
)
def file_that_went_away(w):
    from napari_medverse.widgets.snapshot import FileRef

    FileRef(w.folder / "head.nii.gz").mark()


@bad(
    "{folder}/head.xyz: no reader for it is installed; install a napari reader plugin for this "
    "format, or save it as NIfTI."
)
def file_without_a_reader(w):
    from napari_medverse.widgets.snapshot import FileRef

    FileRef(w.file("head.xyz", b"?")).read()


@bad("Class 3 is not in the preview, which has 1, 2.")
def accepted_class_that_is_not_predicted(w):
    from napari_medverse.widgets.accept import parse_mapping

    parse_mapping("3:1", (1, 2))


@bad("'1->2' is not class:value; write for example 1:5, 2:6.")
def accepted_classes_that_make_no_sense(w):
    from napari_medverse.widgets.accept import parse_mapping

    parse_mapping("1->2", (1, 2))


def read_layer(layer):
    from napari_medverse.widgets.snapshot import LayerRef

    return LayerRef.of(layer).read()


def context():
    from napari_medverse.widgets.context_model import ContextSetModel

    return ContextSetModel()


@warned(
    "Image and label have different affines; the image's is used",
    "spacing of image (1 x 1 x 1) and label (2 x 1 x 1) differ",
)
def label_of_another_spacing(w):
    label = Labels(w.label(), scale=(2, 1, 1), name="head 1 label")
    return Image(w.image(), name="head 1"), label


@warned(
    "'head 1 label' looks like a label map but is an image layer: for segmentation, "
    "right-click it and choose Convert to Labels",
)
def label_that_is_an_image_layer(w):
    return Image(w.image(), name="head 1"), Image(w.label(), name="head 1 label")


@warned(
    "The label is empty",
)
def label_with_nothing_in_it(w):
    return Image(w.image(), name="head 1"), Labels(w.label() * 0, name="head 1 label")


@warned(
    "left out: The image is constant",
)
def image_of_one_value(w):
    return Image(w.image() * 0, name="head 1"), Labels(w.label(), name="head 1 label")


@warned(
    "left out: context pair 'head 1': image (6, 7, 8) and label (3, 3, 3) differ in shape; "
    "pair arrays of one grid",
)
def label_of_another_shape(w):
    return Image(w.image(), name="head 1"), Labels(w.label((3, 3, 3)), name="head 1 label")


@warned(
    "left out: 'movie': a 3D array is needed, got shape (2, 6, 7, 8); choose one time point or "
    "channel",
)
def movie_as_image(w):
    return Image(w.image((2, *SHAPE)), name="movie"), Labels(w.label(), name="head 1 label")
