"""SphereFace2 has no softmax: how are positives weighed, warped and pushed apart without one?

Published: weight 0.7, scale 40, margin 0.4, warp 3 on small sets; 0.8, 64, 0.5 on MS1M. The bias
starts where both signs pull equally hard (`balance`), or elsewhere.

python sweeps/sphereface2.py data.train=shards/faces
"""

from facerec.presets import laptop
from facerec.tuning.compare import points, recipe, space
from facerec.tuning.runner import main
from facerec.tuning.sweep import Sweep

BASE, SPACE = recipe(laptop(), "sphereface2"), space("sphereface2")
SWEEP = Sweep(name="sphereface2", base=BASE, space=SPACE, points=points(BASE, SPACE), trials=20)

if __name__ == "__main__":
    main(SWEEP)
