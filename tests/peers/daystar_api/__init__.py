"""The robot's communication API in plain Python, for interoperation tests.

Names and behaviour are those of the robot's own `daystar_api`; on the wire
goes `port - 65536`. Standard library only, threads.
"""
