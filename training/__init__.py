"""Training of backbones by self-supervision: DINO first.

Open `loop` first: it is the whole of a run. A method (`dino`) brings its networks and its loss;
everything else here serves any method.
"""
