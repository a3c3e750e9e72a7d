"""Everything that deals with DeepSpeed, processes and hosts, and nothing that deals with models or data.

``group`` is the process group (of one process, too), ``settings`` DeepSpeed's configuration, ``zero`` what differs
between ZeRO stages, ``watchdog`` names a process that the others wait for. ``job`` runs a script in several processes,
which one of ``launchers`` starts; ``process`` has the settings of a single one. ``described_group`` is what the
environment says about processes that another program has started, ``started_group`` a job in them, ``visible_devices``
which accelerators they may use.
"""
