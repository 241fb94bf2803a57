"""The options of today's encoders: their number of features and the side of their images."""

VISSL = ("jigsaw", "rotnet", "npid", "npid_plusplus", "pirl_800ep", "clusterfit", "simclr_vissl")
RESNETS = (*VISSL, "simsiam", "barlow_twins_300ep", "densecl", "moco_v3", "vicreg")
OPENMMLAB = (
    "maskfeat_vit_base", "eva_mae_style_vit_base", "milan_vit_base", "pixmim_vit_base",
)  # fmt: skip
VITS = {
    "moco_v3_vit_small": (384, 224), "moco_v3_vit_base": (768, 224), "ibot_vit_small": (384, 224),
    "ibot_vit_base": (768, 224), "ibot_vit_large": (1024, 224), "beit_v2_vit_base": (768, 224),
    **dict.fromkeys(OPENMMLAB, (768, 224)),
    "ijepa_vit_huge": (1280, 224), "ijepa_vit_huge_448": (1280, 448),
    "ijepa_vit_huge_in22k": (1280, 224), "ijepa_vit_giant_in22k": (1408, 224),
}  # fmt: skip
"""Those whose files only their authors or OpenMMLab publish."""
TIMM_HUB = {
    "dino_vit_small_8": (384, 224), "dino_vit_base": (768, 224), "dino_vit_base_8": (768, 224),
    "dinov2_large": (1024, 224), "dinov2_giant": (1536, 224), "dinov2_reg_small": (384, 224),
    "dinov2_reg_base": (768, 224), "dinov2_reg_large": (1024, 224),
    "dinov2_reg_giant": (1536, 224), "dinov3_vit_small": (384, 256),
    "dinov3_vit_small_plus": (384, 256), "dinov3_vit_base": (768, 256),
    "dinov3_vit_large": (1024, 256), "dinov3_vit_huge_plus": (1280, 256),
    "dinov3_vit_7b": (4096, 256), "dinov3_sat_vit_large": (1024, 256),
    "dinov3_convnext_tiny": (768, 224), "dinov3_convnext_small": (768, 224),
    "dinov3_convnext_base": (1024, 224), "dinov3_convnext_large": (1536, 224),
    "siglip_base": (768, 224), "siglip2_base": (768, 224), "siglip2_large": (1024, 256),
    "siglip2_so400m": (1152, 224), "clip_vit_base_32": (768, 224), "clip_vit_base_16": (768, 224),
    "clip_vit_large_14": (1024, 224), "mae_vit_large": (1024, 224), "mae_vit_huge": (1280, 224),
    "deit_vit_small": (384, 224), "deit_vit_base": (768, 224), "deit3_vit_base": (768, 224),
    "vit_small_16_augreg": (384, 224), "convnext_tiny": (768, 224), "convnext_base": (1024, 224),
    "convnext_base_in22k": (1024, 224), "convnextv2_tiny": (768, 224),
    "convnextv2_base": (1024, 224),
}  # fmt: skip
"""Those whose weights timm publishes."""
TODAYS = {**dict.fromkeys(RESNETS, (2048, 224)), **VITS, **TIMM_HUB}
