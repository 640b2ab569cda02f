"""HellaSwag (Zellers et al. 2019): which of four endings does a language model find likeliest?

    tasks = hellaswag.read("hellaswag_val_full.txt.bz2")
    print(hellaswag.score(model, hellaswag.tokenizer("bytes"), tasks))

The model is any causal one of transformers, or a Bigram.

Two answers are scored: the ending of the lowest mean loss a token, and that of the lowest sum over its tokens. Scores
are comparable only where the prompt is the same, which every score therefore names.
"""

from labkit.text.hellaswag.scoring import Score, score, tokenizer, wilson
from labkit.text.hellaswag.tasks import MADE_UP, PROMPTS, VALIDATION, Task, Tasks, read

__all__ = ["MADE_UP", "PROMPTS", "VALIDATION", "Score", "Task", "Tasks", "read", "score", "tokenizer", "wilson"]
