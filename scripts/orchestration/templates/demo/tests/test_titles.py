import unittest

from shelf.titles import sort_key


class TitlesTest(unittest.TestCase):
    def test_articles_do_not_count(self) -> None:
        titles = ["The Odyssey", "Middlemarch", "A Room of One's Own", "Iliad"]
        self.assertEqual(sorted(titles, key=sort_key), ["Iliad", "Middlemarch", "The Odyssey", "A Room of One's Own"])
