"""The live monitor: reads run folders and shows them; it never imports torch or the trainer.

tail       events.jsonl -> events, whatever happens to the file
stored     long similarity events stay in the file; layers read when looked at
layers     what an event says of one layer
frames     router loads and pairwise similarity over training
series     a number over training, in bounded memory
gather     events -> series
alerts     what a person should be told
history    all that is known of one run
runs       the runs of a folder
axes, canvas, heatmap, scales   plots and heat maps of terminal cells
once       one picture as text
snapshot   the same as JSON
follow     reads runs in a thread, for the dashboard
app        the dashboard: screens, widgets, themes
"""
