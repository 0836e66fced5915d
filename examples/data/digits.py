"""Write digits.txt anew, from scikit-learn's digits: `python digits.py > digits.txt`.

A line is a digit: what it shows, a space, and its 8 by 8 pixels, row by row, as the letters `a` (0, white) to `q` (16).
The lines up to the empty one are to train on, those after it to validate with: the split of examples/digits/main.py.
"""

from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

digits = load_digits()
pixels = digits.images.astype(int).reshape(-1, 64)
letters = ["".join(chr(ord("a") + pixel) for pixel in image) for image in pixels]
lines = [f"{label} {image}" for label, image in zip(digits.target, letters)]
train, validation = train_test_split(lines, test_size=0.2, stratify=digits.target, random_state=0)
print("\n".join([*train, "", *validation]))
