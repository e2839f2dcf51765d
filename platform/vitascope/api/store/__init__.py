"""What the service keeps, so that any replica knows it, also after a restart.

records   the documents
objects   their locations and listings
uploads   files of clients
keys      who may ask, and for how much
links     addresses that stand for a key, for a while
"""
