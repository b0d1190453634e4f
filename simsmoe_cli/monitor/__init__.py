"""The live monitor: reads run folders and shows them, without torch or the trainer.

read           follows events.jsonl, whatever happens to the file
state          a run in bounded memory: series, probes, alerts, journal
draw           plots, heat maps and words as lines of terminal cells; knows nothing of runs
view           what panels are drawn from: runs, a selection in them, colours
panels         one panel a file: a pure function that draws it, its keys, words about it
screens, app   the dashboard, the picker and the help in Textual
once           the same panels, printed once as text
json_snapshot  the newest state of runs as JSON
serve          the dashboard in a browser
"""
