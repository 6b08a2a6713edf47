"""Where parts are made: in this process (local.py), or as tasks of Apache Spark (spark.py). Their bytes are the same."""
