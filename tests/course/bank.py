"""Answers to every exercise as people write them: right ones in several forms, and wrong ones with a word that the
reason must contain ("" where being refused is enough).

Written apart from labkit/course/exercises, which holds another bank: that of the mistakes each exercise knows.
"""

from course import bank_geometry, bank_language, bank_longtail, bank_networks, bank_training

PARTS = (bank_geometry, bank_training, bank_networks, bank_longtail, bank_language)
RIGHT = {name: answers for part in PARTS for name, answers in part.RIGHT.items()}
WRONG = {name: answers for part in PARTS for name, answers in part.WRONG.items()}
