"""The live monitor: reads run folders and shows them; it never imports torch or the trainer.

tail     events.jsonl -> events, whatever happens to the file
frames   router loads and pairwise similarity over training, matrices read when looked at
series   a number over training, in bounded memory
alerts   what a person should be told
history  all that is known of one run
runs     the runs of a folder
canvas   plots and heat maps of terminal cells
once     one picture as text, or as JSON
app      the dashboard
"""
