"""An AWS region on this machine, in which instances really run. Only tests use it.

region.py       the program: `python -m ec2.region`
moto_server.py  moto in this process, with a network of private addresses that are addresses of this machine
launch.py       what moto gets wrong of launches
life.py         what moto gets wrong of what comes after: states, endings, who depends on whom
left.py         everything left that somebody made
proxy.py        the endpoint: moto, behind faults on demand
faults.py       which call fails how, and how that looks on the wire
instances.py    the watcher: what moto says is running runs, and what it says is terminated ends
machine.py      one instance: its directories, its environment, its processes
imds.py         the instance metadata service
control.py      the HTTP server through which tests look at instances and have things happen to them
enclosed.py     a region that can be reached, and from which nothing can be
marks.py        processes by a mark in their environment, wherever they went
guard.py        ends what a region started when the region itself is gone
case.py         a region as tests in Python have it
demo.py         the program behind `make demo-ec2`
stubs/          docker, aws and other commands that instances find on their PATH
"""
