"""The wordings of TinyWorld's questions, and what is said where there is nothing to answer."""

UNKNOWN = "I can't read this picture. I know shapes, texts, charts, tables, sums and sudokus."

QUESTIONS: dict[str, tuple[str, ...]] = {
    "caption": (
        "Describe the picture.", "Describe this image.", "Describe what you see.", "What do you see?",
        "What is in the picture?", "What is in this image?", "What does the picture show?", "What is this?",
        "Caption this.", "Tell me about the picture.", "What can you see here?", "Explain the image.",
    ),
    "place": (
        "What is at the {place}?", "What is in the {place}?", "Which shape is at the {place}?",
        "What do you see at the {place}?", "What shape is in the {place}?", "What is on the {place}?",
        "Describe what is at the {place}.",
    ),
    "count": (
        "How many {things} are there?", "How many {things} are in the picture?", "How many {things} do you see?",
        "Count the {things}.", "How many {things}?", "What is the number of {things}?", "Can you count the {things}?",
    ),
    "exists": (
        "Is there {thing}?", "Is there {thing} in the picture?", "Do you see {thing}?", "Can you see {thing}?",
        "Does the picture have {thing}?", "Does the picture show {thing}?", "Is {thing} in the picture?",
    ),
    "where": (
        "Where is the {thing}?", "Where do you see the {thing}?", "In which place is the {thing}?",
        "Where can I find the {thing}?", "Find the {thing}.", "Locate the {thing}.",
    ),
    "colour": (
        "What colour is the {thing}?", "What color is the {thing}?", "Which colour does the {thing} have?",
        "Which color is the {thing}?", "What is the colour of the {thing}?", "What is the color of the {thing}?",
    ),
    "beside": (
        "What is {side} the {thing}?", "Which shape is {side} the {thing}?", "What do you see {side} the {thing}?",
        "What shape is {side} the {thing}?", "Is there anything {side} the {thing}?",
    ),
    "read": (
        "What does it say?", "Read the text.", "Read the word.", "What is written here?", "Which word is written here?",
        "What is written in the picture?", "What is the text?", "What is the word?", "What does the sign say?",
        "Read this.", "What text do you see?", "What does the text say?", "Read the words.",
    ),
    "reversed": (
        "Read the word backwards.", "Read the text backwards.", "What is the word in reverse?",
        "Spell the word backwards.", "Reverse the word.", "Read it backwards.", "Reverse the text.",
    ),
    "table": (
        "Turn the chart into a table.", "Make a table of the chart.", "List the values.", "What are the values?",
        "Convert this to a table.", "Copy the table.", "Read the table.", "Write it as a table.", "Make a table.",
        "Show the data as a table.", "What are the values in the chart?", "List all values.",
    ),
    "largest": (
        "Which value is the largest?", "Which has the largest value?", "Which bar is the tallest?",
        "What is the highest value?", "Which is the biggest?", "Which bar is the highest?", "What is the maximum?",
        "Which label has the largest value?", "Which slice is the largest?", "Where is the maximum?",
    ),
    "smallest": (
        "Which value is the smallest?", "Which has the smallest value?", "Which bar is the shortest?",
        "What is the lowest value?", "Which is the smallest?", "Which bar is the lowest?", "What is the minimum?",
        "Which label has the smallest value?", "Which slice is the smallest?", "Where is the minimum?",
    ),
    "value": (
        "What is the value of {name}?", "What value does {name} have?", "How much is {name}?", "How large is {name}?",
        "What is the number for {name}?", "Read the value of {name}.", "Which value does {name} have?",
    ),
    "title": (
        "What is the title?", "What is the title of the chart?", "What is the chart about?", "Read the title.",
        "What is the chart called?", "Which title does the chart have?",
    ),
    "sudoku": (
        "Solve the sudoku.", "Solve this puzzle.", "Fill in the missing digits.", "What is the solution?",
        "Complete the grid.", "Solve this.", "Fill in the grid.", "Can you solve the sudoku?",
    ),
    "copy": (
        "Copy the grid.", "Read the grid.", "Write down the digits you see.", "Which digits are given?",
        "Copy the digits.", "Which digits do you see?",
    ),
    "sum": (
        "Solve the sum.", "What is the result?", "Calculate this.", "How much is that?", "What does it make?",
        "Work it out.", "What is the answer?", "Solve the problem.", "Compute the sum.",
    ),
}

OTHER_WORDINGS: dict[str, tuple[str, ...]] = {  # of training alone, about wild pictures
    "caption": (
        "Describe my drawing.", "What did I draw?", "What have I drawn?", "What's this?", "What's in the picture?",
        "Describe this, please.", "Say what you see.", "What is drawn here?",
    ),
    "place": (
        "What's at the {place}?", "What did I draw at the {place}?", "What's in the {place}?", "What is {place}?",
        "Tell me what is at the {place}.",
    ),
    "count": (
        "How many {things} did I draw?", "How many {things} does the picture have?", "How many {things} can be seen?",
        "Number of {things}?", "Please count the {things}.",
    ),
    "exists": (
        "Did I draw {thing}?", "Have I drawn {thing}?", "Is {thing} here?", "Can {thing} be seen?",
        "Is there {thing} anywhere?", "Do you find {thing}?",
    ),
    "where": (
        "Where did I put the {thing}?", "Where have I drawn the {thing}?", "At which place is the {thing}?",
        "Where's the {thing}?", "In which corner is the {thing}?", "Where does the {thing} stand?",
    ),
    "colour": (
        "What's the colour of the {thing}?", "Which color did I give the {thing}?", "In which colour is the {thing}?",
        "What's the color of the {thing}?",
    ),
    "beside": (
        "What's {side} the {thing}?", "What did I draw {side} the {thing}?", "What stands {side} the {thing}?",
    ),
    "read": (
        "What have I written?", "Read what I wrote.", "Which word did I write?", "Which number do you see?",
        "What number is written here?", "Read my writing.", "Read my text.", "What is written on the sign?",
        "What does the button say?", "Which text is on it?", "What's written here?", "Which letters do you see?",
        "Read it to me.", "What does this page say?",
    ),
    "reversed": ("Write it backwards.", "Read my word backwards.", "What is it backwards?"),
    "table": (
        "Write the table as text.", "Give me the values.", "Give me the table.", "Turn the picture into text.",
        "Write down all the values.", "Make this a table.", "Copy this table.", "What are all the values?",
    ),
    "largest": (
        "Who has the most?", "Which day has the largest value?", "Which month has the highest value?",
        "Which one is the largest?", "When is the maximum?", "Which slice is the largest one?",
        "Which point is the highest?", "Which has the most?",
    ),
    "smallest": (
        "Who has the least?", "Which month has the smallest value?", "Which day has the lowest value?",
        "Which one is the smallest?", "When is the minimum?", "Which slice is the smallest one?",
        "Which point is the lowest?", "Which has the least?",
    ),
    "value": (
        "What's the value of {name}?", "How much does {name} have?", "What is the value for {name}?",
        "What's the number for {name}?", "How high is {name}?", "And {name}?", "What is the value of slice {name}?",
        "What is the value of bar {name}?",
    ),
    "title": ("What's the title?", "Which title stands above the chart?", "Tell me the title.", "What's it called?"),
    "sudoku": (
        "Solve the sudoku, please.", "Can you solve it?", "Can you fill this in?", "Solve it.", "What's the solution?",
    ),
    "copy": ("Copy this grid.", "Write down the grid.", "What digits do you see?", "Which numbers are in the grid?"),
    "sum": (
        "Can you calculate this?", "Can you work this out?", "Can you solve the sum?", "Solve it.",
        "What's the result?", "Can you solve it?", "What comes out?", "Solve my sum.",
    ),
}

_SHAPES = "There are no shapes in this picture."
_CHART = "There is no chart in this picture."
ABSENT = {  # asked about a picture of another kind
    "place": _SHAPES, "count": _SHAPES, "exists": _SHAPES, "where": _SHAPES, "colour": _SHAPES, "beside": _SHAPES,
    "read": "There is no text to read in this picture.", "reversed": "There is no text to read in this picture.",
    "table": "There is no chart and no table in this picture.", "largest": _CHART, "smallest": _CHART,
    "value": "There is no chart and no table in this picture.", "title": _CHART,
    "sudoku": "There is no sudoku in this picture.", "copy": "There is no sudoku in this picture.",
    "sum": "There is no sum in this picture.",
}
