"""Exercises, and a check that says what is wrong.

from labkit.course import check, use

check(my_nc1, "nc1")       # right, or what is wrong, with one small input, the right answer and yours
my_nc1 = use("nc1")        # your function where it passed, labkit's where it did not; and says which
"""

from labkit.course.exercises.checking import check, exercises, find, records, use
from labkit.course.exercises.exercise import Exercise

__all__ = ["Exercise", "check", "exercises", "find", "records", "use"]
