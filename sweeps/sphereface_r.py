"""Which form of SphereFace-R's multiplicative margin, how large, at which scale?

`v0` bends the target monotonically, `v1` cuts it at pi, `v2` leaves it and pulls the others
closer. Published settings lie from 1.5 at scale 30 to 1.7 at scale 64.

python sweeps/sphereface_r.py data.train=shards/faces
"""

from facerec.presets import laptop
from facerec.tuning.compare import points, recipe, space
from facerec.tuning.runner import main
from facerec.tuning.sweep import Sweep

BASE, SPACE = recipe(laptop(), "sphereface_r"), space("sphereface_r")
SWEEP = Sweep(name="sphereface_r", base=BASE, space=SPACE, points=points(BASE, SPACE), trials=16)

if __name__ == "__main__":
    main(SWEEP)
