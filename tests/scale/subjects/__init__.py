"""Controllers that can be measured. Each controller is a module with these names:

NAME, UNIT          name in the tables, and name of one of its objects ("cluster", "group")
NAMESPACE, ACCOUNT  the service account of the controller
COLLECTION          API path of the group and version of its kind; `PLURAL` is the resource
READY_URL           URL that answers 200 once the process serves
METRICS_URL         URL of the controller's metrics, which own_counts(page) reads; None if the measurement does not use them
PODS, pods_of(name) label selectors: all pods of all objects, of one object
install(api, tools) installs everything but the Deployment
command(tools)      returns the command line
spec(name)          returns an object with one head and three workers, which run only on fake nodes
is_ready(thing)     returns true if the status says that the whole object serves
is_worker(pod)      returns true if the pod named `pod` is a worker
"""

from . import leaderworkerset, lockstep

ALL = {subject.NAME: subject for subject in (lockstep, leaderworkerset)}
