"""Names that a user may type and how a noise level is told; free of JAX, so that a command line starts at once."""

REPORTED = {"sdedit": "SDEdit", "score-ald": "ScoreALD", "dps": "DPS"}
"""The methods of the reports, which experiments compare by default."""
METHODS = REPORTED | {"dps-likelihood": "DPSLikelihood", "tmpd": "TMPD", "pigdm": "PiGDM", "mmps": "MMPS"}
WEIGHTINGS = ("over_gamma", "over_variance", "twice_over_variance")
TASKS = {"inpaint": "inpainting", "deblur": "deblurring", "denoise": "denoising"}


def describe_sigma(sigma_y: float) -> str:
    """Tells a noise level in all units in use.

    >>> describe_sigma(0.05)
    '0.05 in [-1, 1] units = 0.025 in [0, 1] units = 6.38 of 255 steps'
    """
    return f"{sigma_y:.4g} in [-1, 1] units = {sigma_y / 2:.4g} in [0, 1] units = {sigma_y * 127.5:.3g} of 255 steps"
