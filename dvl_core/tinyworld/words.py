"""The words that appear in TinyWorld's pictures."""

COMMON = tuple(
    """apple arm baby bag ball bank beach bear bed bell bird boat body book box boy bread bridge brother bus cake
    camera candle car cat chair cheese child city class cloud coat coffee cold cook corn country cow cup dance day
    desk dinner dog door dragon dream dress drink duck earth east egg engine evening eye face family farm father
    field film fire fish flag floor flower food forest friend fruit game garden gate ghost girl glass goat gold
    grass green guitar hair hand happy hat heart hello hill home honey horse hotel house ice island jacket juice
    jungle key king kitchen kite knife lake lamp land leaf lemon letter light lion love lunch machine magic map
    market milk mirror money monkey moon morning mother mountain mouse music name neck nest night noise north nose
    nurse ocean office oil onion open orange paint paper park party peace pencil people phone piano picture pig
    pilot pizza planet plant plate poem pond pool potato press prince queen quiet rabbit radio rain ring river road
    robot rock roof room rose salt sand school sea season seed sheep ship shirt shoe shop silver sister sky sleep
    smile snow soap song soup south spoon spring star station stone storm story street sugar summer sun table tea
    teacher ticket tiger time today tomato tower town toy train tree truck uncle village violin voice wall watch
    water weather week west whale wheel white wind window winter wolf woman wood work world yellow young zebra
    welcome exit stop sale closed private danger please thanks quick brown jumps over lazy the and for you are not
    all can her was one our out new old see way who its now find long down did get come made may part""".split()
)

TITLES = tuple(
    """Sales Rain Votes Points Fish Birds Books Cars Goals Hours Money People Cups Trees Visits Plants Days
    Scores Apples Steps Films Songs Pets Cakes Eggs Boats""".split()
)
SERIES = (  # labels that belong together, in their order
    ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat"),
    ("Jan", "Feb", "Mar", "Apr", "May", "Jun"),
    ("Ann", "Bob", "Cem", "Dan", "Eva", "Finn"),
    ("cat", "dog", "fox", "cow", "hen", "pig"),
    ("tea", "milk", "juice", "water", "soup", "cola"),
    ("Rome", "Oslo", "Lima", "Paris", "Cairo", "Delhi"),
)
HEADERS = (
    ("Name", "Value"), ("Item", "Price"), ("Team", "Score"), ("City", "Days"), ("Fruit", "Count"), ("Pet", "Age"),
)
