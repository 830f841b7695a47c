"""How an expression is read and what decides: cells for a notebook, or a script.

Run: python explain.py, or open it in an editor that runs ``# %%`` cells.
"""

# %% Load the models, and look at a photo.
from pathlib import Path

import saymask

photo = Path(saymask.__file__).parent / "samples" / "coffee.jpg"
segmenter = saymask.load_segmenter()
segmenter.prepare([photo], lambda done, total: print(f"{done} of {total} prepared"))

# %% An expression is parsed: a noun phrase to look for, and words of side, order, size, relation.
explanation = segmenter.explain(photo, "the spoon right of the big cup", k=3)
parsed = explanation.parsed
print("noun phrase:", parsed.head_noun_phrase)
print("looked for:", parsed.appearance)
for relation in parsed.relations:
    print("relation:", relation.kind, relation.anchor)

# %% Each candidate's score is a sum of terms, in nats: what the largest differences are, decided.
candidates = explanation.result.candidates
for name in explanation.terms[0]:
    values = "  ".join(f"{terms[name]:+6.2f}" for terms in explanation.terms)
    print(f"{name:24} {values}")
print(f"{'score':24} " + "  ".join(f"{candidate.score:+6.2f}" for candidate in candidates))

# %% The lead over the best other object gives the probability of each candidate.
for candidate in candidates:
    print(f"rank {candidate.rank}: probability {candidate.confidence:.2f}, {candidate.box_xyxy}")

# %% Leave a word out and compare: the relation is what separates these two readings.
shorter = segmenter.explain(photo, "the spoon", k=1).result.candidates[0]
print("the same object:", saymask.compute_iou(shorter.mask, candidates[0].mask) > 0.7)

# %% In a notebook this cell shows the picture.
picture = explanation.result.draw()
picture.save("explained.png")
segmenter.close()
