"""Does AdaFace's margin by image quality help, and how strongly should the norm steer it?

With `loss.concentration` near 0 the margin is CosFace's for every image. The paper's 0.4 and 0.333
are for millions of images; the norm's running mean starts far off and needs some hundred steps, so
a short training wants a larger `loss.norm_momentum`.

python sweeps/adaface.py data.train=shards/faces
"""

from facerec.presets import laptop
from facerec.tuning.compare import points, recipe, space
from facerec.tuning.runner import main
from facerec.tuning.sweep import Sweep

BASE, SPACE = recipe(laptop(), "adaface"), space("adaface")
SWEEP = Sweep(name="adaface", base=BASE, space=SPACE, points=points(BASE, SPACE), trials=16)

if __name__ == "__main__":
    main(SWEEP)
