"""The evaluation suite: one way to score anything that can be edited.

==================  =================================================================================
``case``            Case and Probe: an edit, and the prompts that show whether it worked
``datasets``        strict readers of the published formats
``editable``        the contract of what is scored: Editable, Undo
``normalise``       when an answer counts as right, and when as unchanged
``metrics``         Score (one probe) and Metric (the mean over edits, with n and standard error)
``cache``           answers of the unedited model, kept in memory and on disk
``protocol``        single and sequential editing; resumable
``results``         the results file: writing, reading, checking against its schema
==================  =================================================================================
"""
