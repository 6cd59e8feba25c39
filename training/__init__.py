"""Training of backbones: DINO first, and iBOT, SimCLR, perturbation labels and MAE.

Open `loop` first: it is the whole of a run. A method (`dino`, `ibot`, `simclr`, `supcon`, `mae`)
brings its networks and its loss; everything else here serves any method.
"""
