"""What can be evaluated, one file a kind.

Each defines ``SUBJECT``, a subclass of :class:`distill.evals.subject.Subject`.
"""
