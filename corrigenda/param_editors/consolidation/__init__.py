"""Consolidation: printing proven edits into the weights, behind a gate, undone exactly.

::

    plan       which live edits, which editor, which gate: a file to review, commit and run      plan, selection
    run        print on a copy, batch by batch; what fails the gate is dropped or bisected out    job, printing, gate
    promote    one atomic step makes a new edition the model; its edits stay as shadows           promotion, publishing
    probation  do the weights answer alone? then the edits retire from memory                     probation
    rollback   any promotion that the algebra lets out, the memory taking over at once            promotion

An *edition* is an immutable version of a model: the base weights and the promotions printed on top of them, in order.
"""
