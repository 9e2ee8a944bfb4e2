"""Every example runs in its quick form and leaves its pictures."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
EXPECTED = {
    "bayesian_neural_net.py": (["calibration.png"], "Bayesian neural net  RMSE "),
    "bnn_sghmc.py": (["calibration.png"], "SGHMC less mean field: log-likelihood "),
    "matrix_factorization.py": (["ratings.png"], "  posterior (HMC)       RMSE "),
    "missing_data.py": (["imputation.png"], "MIWAE                RMSE "),
    "variational_dropout.py": (["rates.png"], "learned rates     accuracy "),
    "iwae.py": (["bounds.png"], "K = 50"),
    "bernoulli_vae.py": (["elbo.png"], "REINFORCE, 1 draw, baseline network"),
    "sigmoid_belief_net.py": (["curves.png", "samples.png"], "reweighted wake-sleep: elbo -"),
    "semi_supervised.py": (["analogies.png"], "100 labels, seed 0: test error "),
    "zhusuan_tutorial.py": (["vae.epoch.3.png"], r"Test log p(x) >= "),
    "vae_flows.py": (["posteriors.png"], "spline (NSF) "),
    "vae_notebook.py": (["003.png"], "test iwae-100: "),
    "avb_four_points.py": (["training_curve.png", "latent_scatter.png"], "training estimate, no bound"),
    "conv_vae.py": (["latent_scatter.png", "manifold.png"], "Epoch: 03, Test set VLB: "),
    "mixture_sgnht.py": (["thermostat.png"], "a + eta V / 2 = 0.3500"),
    "hmc_eight_schools.py": (["marginals.png"], "nats; exact -12.711"),
    "eight_schools.py": (["posterior.png"], "exact: log p(y) = -12.711 nats; tau > 0 in 50.0%"),
}


def test_every_example_is_listed() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_quick_form(name: str, tmp_path: Path) -> None:
    pictures, line = EXPECTED[name]
    command = [sys.executable, str(EXAMPLES / name), "--quick", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert line in done.stdout
    for picture in pictures:
        assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")


def test_gaussian_form_of_the_notebook(tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLES / "vae_notebook.py"), "--quick", "--likelihood", "gaussian"]
    done = subprocess.run([*command, "--out", str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    # N(f(z), I) over 64 pixels in [0, 1]: at best -32 log(2 pi) = -58.8 nats.
    value = float(done.stdout.split("test iwae-100: ")[1].split(" ")[0])
    assert -75 < value < -58.8
