# Each line of a text as one C string of an array.
s/\\/\\\\/g
s/"/\\"/g
s/.*/"&\\n",/
