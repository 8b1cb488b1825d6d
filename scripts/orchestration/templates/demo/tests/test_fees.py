import unittest

from shelf.fees import fee


class FeesTest(unittest.TestCase):
    def test_grace_rate_ceiling_and_invalid_books(self) -> None:
        self.assertEqual([fee(days, "978-0-306-40615-7") for days in (0, 2, 3, 12, 90)], [0, 0, 25, 250, 500])
        self.assertEqual(fee(12, "978-0-306-40615-8"), 0)
