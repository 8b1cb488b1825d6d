import unittest

from shelf.isbn import is_valid


class IsbnTest(unittest.TestCase):
    def test_check_digit(self) -> None:
        self.assertTrue(is_valid("978-0-306-40615-7"))
        self.assertFalse(is_valid("978-0-306-40615-8"))
        self.assertFalse(is_valid("978-0-306"))
