"""What is wrong with a machine, a cluster or a store, and what to do about it.

A *look* gathers the facts of one topic on one machine; a *judgement* makes findings of them, on the
driver, where all machines can be compared.
"""
