"""What can be evaluated, one file a kind, which defines ``SUBJECT``, a subclass of :class:`distill.evals.subject.Subject`."""
