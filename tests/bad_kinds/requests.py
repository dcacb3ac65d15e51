"""Context sets and options of a prediction."""

from napari_medverse import ContextSet

from .kit import bad


@bad("the context set is empty: add at least one image and label")
def no_pairs(w):
    w.ask(pairs=[])


@bad("context pairs are needed, got ndarray; give a list of ContextPair(image, label)")
def pairs_that_are_an_array(w):
    w.ask(pairs=w.image())


@bad("context 2 is tuple; give ContextPair(image, label)")
def pair_of_three(w):
    ContextSet([w.pair(), (w.image(), w.label(), w.label())])


@bad(
    "the context set mixes label pairs and image pairs; image pairs are 'noisy head': remove "
    "them or state their task"
)
def label_pairs_and_image_pairs(w):
    w.ask(pairs=[w.pair(), w.pair(label=w.image(seed=1), name="noisy head")])


@bad("class 7 is in no context label; the pairs hold 1, 2")
def class_that_no_pair_holds(w):
    w.ask(classes=(1, 7))


@bad("class 0 is not a positive whole number")
def class_zero(w):
    w.ask(classes=(0,))


@bad("class 1.5 is not a positive whole number")
def class_that_is_a_fraction(w):
    w.ask(classes=(1.5,))


@bad("class 'cranium' is not a positive whole number")
def class_that_is_a_word(w):
    w.ask(classes=("cranium",))


@bad("classes must be a list of label values, got 1")
def classes_that_are_one_number(w):
    w.ask(classes=1)


@bad("no class was chosen; the pairs hold 1, 2")
def no_class_chosen(w):
    w.ask(classes=())


@bad("classes were given, but the pairs are image to image")
def classes_for_an_image_task(w):
    w.ask(pairs=[w.pair(label=w.image(seed=1))], classes=(1,))


@bad("task must be 'labels' or 'image', got 'surface'")
def unknown_task(w):
    w.pair(task="surface")


@bad(
    "there is no option 'aline'; the options are classes, align, prior, placement, "
    "mini_context, levels, stop_level, overlap, threshold, skip, visible, strategy, run_id"
)
def unknown_option(w):
    w.ask(aline="rigid")


@bad("align must be one of none, rigid, affine, auto; got 'elastic'")
def unknown_alignment(w):
    w.ask(align="elastic")


@bad("levels must be a whole number of at least 1, got 0")
def no_levels(w):
    w.ask(levels=0)


@bad("levels is 9: too many for a target of shape (6, 7, 8)")
def too_many_levels(w):
    w.ask(levels=9)


@bad("mini_context must be a whole number of at least 1, got 0.5")
def mini_context_of_a_half(w):
    w.ask(mini_context=0.5)


@bad("threshold must lie between 0.0 and 1.0, got 1.5")
def threshold_above_one(w):
    w.ask(threshold=1.5)


@bad("threshold must lie between 0.0 and 1.0, got 'half'")
def threshold_that_is_a_word(w):
    w.ask(threshold="half")


@bad("overlap must lie between 0.0 and 0.9, got 1.0")
def overlap_of_everything(w):
    w.ask(overlap=1.0)


@bad("visible needs three entries: a slice index or None per axis")
def slice_in_view_of_two_axes(w):
    w.ask(visible=(3, None))
