"""The generation app on Ray Serve.

values     what passes between the deployments
text       prompts to token states
denoise    noise to latents
codec      media to conditioning latents, and latents to committed files
build      the app: its deployments and their ingress
serving    runs the app for a batch
sending    sends requests to it, again if need be
"""
