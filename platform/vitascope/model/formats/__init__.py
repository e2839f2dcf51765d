"""Models as files: our own, and as others publish and read them.

card         a trained model's folder: weights, and the card with what belongs to them
check, load  its files, checked before they are used; its network
weights      Wan's weights in the formats of diffusers, Wan and ComfyUI, in and out
wan_names    their configurations and names
stored       tensors of safetensors files, read in parts
adapters     LoRA in the formats of diffusers, ComfyUI and kohya, in and out
pipeline     a whole published pipeline
start        the weights that a run starts from
purpose      the noise levels and conditioning frames that those are for
"""
