"""What tests are made of: valid as it comes; each test changes what it is about.

records        one record or server specification each
simulated      cells of a drafter that is a table, to judge
runs           runs and cells that are the same every time, on disk
predictions    what training predicts, and cells that keep or break it
audits, model_cards, streams, metrics_page, texts, stacks, eagle3: what their names say
damage         damaged files, and how a reader has to take them
"""
