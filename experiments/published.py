"""What the four student reports print for FFHQ-256: PSNR in dB / LPIPS, one face each.

None of them prints sigma, the mask fraction or the LPIPS network. Jacques' and Chin & Zhang's posters do not label
their columns legibly; the assignment to tasks follows the order of the values and the text.
"""

PUBLISHED: dict[str, dict[tuple[str, str], str]] = {
    "Zhu (5 runs)": {
        ("box", "sdedit"): "19.85 ± 0.50 / 0.288",
        ("box", "score-ald"): "22.45 ± 0.26 / 0.218",
        ("box", "dps"): "35.43 ± 0.41 / 0.022",
        ("blur", "sdedit"): "20.15 ± 0.08 / 0.270",
        ("blur", "score-ald"): "22.81 ± 0.46 / 0.178",
        ("blur", "dps"): "29.15 ± 0.30 / 0.077",
    },
    "Jacques (best of 3 settings)": {
        ("box", "sdedit"): "23.03 / 0.134",
        ("box", "score-ald"): "33.61 / 0.015",
        ("box", "dps"): "33.69 / 0.026",
        ("random", "sdedit"): "15.24 / 0.327",
        ("random", "score-ald"): "32.91 / 0.038",
        ("random", "dps"): "32.63 / 0.048",
        ("blur", "sdedit"): "23.38 / 0.171",
        ("blur", "score-ald"): "28.23 / 0.063",
        ("blur", "dps"): "27.92 / 0.072",
    },
    "Chin & Zhang": {
        ("box", "sdedit"): "20.02 / 0.21",
        ("box", "score-ald"): "23.06 / 0.11",
        ("box", "dps"): "34.42 / 0.02",
        ("random", "sdedit"): "15.08 / 0.30",
        ("random", "dps"): "15.99 / 0.20",
        ("blur", "sdedit"): "20.36 / 0.20",
        ("blur", "score-ald"): "22.69 / 0.15",
        ("blur", "dps"): "28.23 / 0.06",
    },
}
