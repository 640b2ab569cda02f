"""What only the notebooks need: predictions, exercises with their check, editions of the course, and grading.

from labkit.course import answer, check, predict, use
"""

from labkit.course.exercises import check, records, use
from labkit.course.predict import answer, predict

__all__ = ["answer", "check", "predict", "records", "use"]
