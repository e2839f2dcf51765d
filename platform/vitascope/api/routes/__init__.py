"""The addresses of the service, as OpenAI's API has them.

serving      what every address has: the key, the body of a request
content      files, whole or in ranges
videos images files batches    the objects
about        models, health, metrics
docs         a page that describes the addresses, without scripts
people       the page for people
application  the whole, with its errors
"""
