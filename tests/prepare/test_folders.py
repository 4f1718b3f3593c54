from dino_nb.prepare.folders import plain_names


def test_plain_names_of_one_name_are_numbered_from_two():
    assert list(plain_names(["a.jpg", "a.jpg", "A.JPG", "b/a.jpg", "b/a.jpg"])) == [
        "a.jpg",
        "a_2.jpg",
        "A_3.JPG",
        "b_a.jpg",
        "a_4.jpg",
    ]


def test_plain_names_are_unlike_without_their_endings_where_told():
    taken: set[str] = set()
    assert list(plain_names(["a.jpg", "a.png", "x/a.bmp"], taken=taken, stems=True)) == ["a.jpg", "a_2.png", "x_a.bmp"]
    assert list(plain_names(["A.gif"], taken=taken, stems=True)) == ["A_3.gif"]


def test_plain_names_are_short_and_printable():
    names = list(plain_names(["\u732b" * 200 + ".png", "\u732b" * 201 + ".png", 'a\x1b:"b.png', "x" * 300]))
    assert all(name.isprintable() and len(name.encode()) <= 230 for name in names) and len(set(names)) == 4
    assert names[2] == "a___b.png"
