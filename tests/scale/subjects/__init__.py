"""Controllers that can be measured. Each is a module of its own with the same names:

NAME, UNIT          as tables call it, and what it makes ("cluster", "group")
NAMESPACE, ACCOUNT  the service account it runs under
COLLECTION          API path of its kind's group and version; `PLURAL` its resource
READY_URL           answers 200 once the process serves
METRICS_URL         where it says what it did itself, read by own_counts(page); None where nothing of that is wanted
PODS, pods_of(name) label selectors: all pods of all objects, of one object
install(api, tools) everything it needs but its Deployment
command(tools)      its command line
spec(name)          one object of one head and three workers, which only fake nodes take
is_ready(thing)     does the object say that all of it serves?
is_worker(pod)      is the pod called `pod` one of the workers?
"""

from . import leaderworkerset, lockstep

ALL = {subject.NAME: subject for subject in (lockstep, leaderworkerset)}
