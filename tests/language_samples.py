"""Sentences of several languages, each with the encodings that files of it are in."""

SAMPLES = {
    "German": (
        "„Käse und Würste“, sagte der Bäcker – und lächelte müde über die schöne Straße. Für größere Mengen "
        "müssen Sie früh aufstehen.",
        ("cp1252", "mac-roman"),
    ),
    "German without quotes": ("Käse und Würste, sagte der Bäcker, und lächelte müde.", ("latin-1", "cp850")),
    "French": (
        "Où était-il passé ? Elle a été très déçue, répéta le garçon, à cause du gâteau.",
        ("cp1252",),
    ),
    "Spanish": (
        "¿Dónde está el niño? Mañana comerá una piña en el jardín con su compañía.",
        ("latin-1", "cp850"),
    ),
    "English": (
        "It’s the “first” time that he’d said so — and she didn’t believe him.",
        ("cp1252", "mac-roman"),
    ),
    "Polish": ("Zażółć gęślą jaźń, powiedział chłopiec. Wczoraj byłem w mieście.", ("cp1250", "iso8859-2")),
    "Czech": (
        "Příliš žluťoučký kůň úpěl ďábelské ódy. Včera večer jsem šel do města.",
        ("cp1250", "iso8859-2"),
    ),
    "Hungarian": ("Árvíztűrő tükörfúrógép. Tegnap este elmentem a városba.", ("cp1250", "iso8859-2")),
    "Turkish": (
        "Dün akşam şehre gidip ekmek aldım. İstanbul güzel bir şehirdir, ışıklar yanıyordu.",
        ("cp1254",),
    ),
    "Russian": (
        "Все счастливые семьи похожи друг на друга, каждая несчастливая семья несчастлива по-своему.",
        ("cp1251", "koi8-r", "cp866", "mac-cyrillic", "iso8859-5"),
    ),
    "Russian title": ("ГЛАВА ПЕРВАЯ\n\nШел дождь.", ("cp1251", "koi8-r", "cp866")),
    "Ukrainian": ("Садок вишневий коло хати, хрущі над вишнями гудуть. Їй є що їсти.", ("cp1251", "koi8-u")),
    "Greek": ("Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια.", ("cp1253", "iso8859-7")),
    "Hebrew": ("כל בני האדם נולדו בני חורין ושווים בערכם ובזכויותיהם.", ("cp1255", "iso8859-8")),
    "Arabic": ("يولد جميع الناس أحرارا متساوين في الكرامة والحقوق.", ("cp1256", "iso8859-6")),
    "Thai": ("มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์", ("cp874",)),
    "Japanese": (
        "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。",
        ("cp932", "euc_jp", "iso2022_jp"),
    ),
    "Chinese": ("人人生而自由，在尊严和权利上一律平等。这是一个很长的故事，我们明天再说吧。", ("gb18030",)),
    "Taiwanese": (
        "人人生而自由，在尊嚴和權利上一律平等。這是一個很長的故事，我們明天再說吧。",
        ("big5hkscs",),
    ),
    "Korean": ("모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.", ("cp949",)),
}
