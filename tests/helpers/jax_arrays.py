"""Files of google-research's vision transformers, with random values."""

import numpy as np

WIDTH, HEADS = 192, 3
"""Of ``vit_tiny_patch16_224``."""


def vit_arrays(side: int, classes: int = 5, blocks: int = 2) -> dict[str, np.ndarray]:
    """Return random arrays of a ViT-Ti/16 as the authors' code saves them.

    Args:
        side: number of patches per side.
        classes: number of outputs of the classifier.
        blocks: number of blocks.
    """
    norm = {"scale": (WIDTH,), "bias": (WIDTH,)}
    shapes: dict[str, tuple[int, ...]] = {
        "cls": (1, 1, WIDTH),
        "embedding/kernel": (16, 16, 3, WIDTH),
        "embedding/bias": (WIDTH,),
        "Transformer/posembed_input/pos_embedding": (1, side**2 + 1, WIDTH),
        "head/kernel": (WIDTH, classes),
        "head/bias": (classes,),
        **{f"Transformer/encoder_norm/{leaf}": shape for leaf, shape in norm.items()},
    }
    for number in range(blocks):
        block = f"Transformer/encoderblock_{number}"
        for name in ("LayerNorm_0", "LayerNorm_2"):
            shapes |= {f"{block}/{name}/{leaf}": shape for leaf, shape in norm.items()}
        for dense, (inside, out) in enumerate(((WIDTH, 4 * WIDTH), (4 * WIDTH, WIDTH))):
            shapes[f"{block}/MlpBlock_3/Dense_{dense}/kernel"] = (inside, out)
            shapes[f"{block}/MlpBlock_3/Dense_{dense}/bias"] = (out,)
        attention = f"{block}/MultiHeadDotProductAttention_1"
        for part in ("query", "key", "value"):
            shapes[f"{attention}/{part}/kernel"] = (WIDTH, HEADS, WIDTH // HEADS)
            shapes[f"{attention}/{part}/bias"] = (HEADS, WIDTH // HEADS)
        shapes |= {f"{attention}/out/kernel": (HEADS, WIDTH // HEADS, WIDTH),
                   f"{attention}/out/bias": (WIDTH,)}  # fmt: skip
    generator = np.random.default_rng(0)
    return {
        name: generator.normal(0, 0.1, shape).astype(np.float32) for name, shape in shapes.items()
    }
