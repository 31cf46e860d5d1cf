"""Common English words for the tokenizer, in addition to the words of the world's questions."""

WORDS = """
a about above after again all also always am an and another any anything appear appeared are around as ask at away
back background be became because been before began begin beginning behind below beside best between big black both
bottom brief bright brown but by call camera can cannot centre change changed clip close color come could dark
describe did different direction do does done down during each early earlier either else empty end ended enough even
ever every everything exactly example far fast few find first follow for four found frame frames from front gave get
give go going gone good great grey had half happen happened has have he help her here high him his hold how if in
inside into is it its just keep kept kind know large last late later least leave left less let like list little long
look looked lot low made main make many may me mean middle might moment more most move moved moves moving much must my
name near never new next no none not nothing now number object objects of off often old on once one only open or order
other our out over own part people picture place please point position put question quick quickly right row same saw
say scene second seconds see seen several shall shape she shone short should show shown side since single six size sky
slow small so some something soon start started stay stayed still stop stopped such summary sure take tell ten than that
the their them then there these they thing things think third this those though three through time times to today
together told too took toward tree true try turn two type under until up upon us use used very video view visible want
was watch way we well went were what when where whether which while white who whole whose why wide will with within
without word work world would yes yet you your
"""
"""Words separated by white space."""
