"""The generation app on Ray Serve.

values     what passes between the deployments
text       prompts to token states
denoise    noise to latents
in_chunks  a long video, chunk by chunk
codec      media to conditioning latents, and latents to committed files
build      the app: its deployments and their ingress
scaling    how many replicas a deployment needs
shares     which request goes next, and to which replica
routing    sends requests as shares decides
serving    runs the app for a batch
sending    sends requests to it, again if need be
"""
