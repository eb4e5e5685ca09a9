"""How weights travel from trainer to engines: buckets of bytes, a process group of their own, the sender.

The room must not know engines' HTTP interfaces, Ray nor how parameters are gathered.
"""
