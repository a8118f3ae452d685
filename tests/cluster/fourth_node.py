#!/usr/bin/python3
"""A fourth node joins while clients chat. With its link cut during the catch-up it stays delayed, with an alarm, while the
other three run on; afterwards it starts by itself."""
import asyncio
import subprocess
import threading

from harness import run_test, wait
from xmpp import Client, say


class Chat(threading.Thread):
    """Two users on two nodes send each other numbered messages all the time."""

    def __init__(self, cluster):
        super().__init__(daemon=True)
        self.cluster, self.n, self.stop, self.error = cluster, 0, False, None

    def run(self):
        try:
            asyncio.run(self.chat())
        except Exception as e:  # told by check()
            self.error = e

    async def chat(self):
        n1, n2 = self.cluster.nodes[:2]
        a = await Client('ann', host=n1.address, ca=self.cluster.ca).log_in('a')
        b = await Client('bob', host=n2.address, ca=self.cluster.ca).log_in('b')
        a.presence()
        b.presence()
        while not self.stop:
            text = 'number %d' % self.n
            await say(a, b, text, 30)
            await say(b, a, text, 30)
            self.n += 1
        await a.close()
        await b.close()

    def check(self):
        if self.error:
            raise AssertionError('the chat broke: %r' % self.error)
        return self.n


def state(node, name):
    return [n for n in node.json('dbreplication', 'runtimestate')['nodes'] if n['name'] == name][0]


def alarms(node):
    return [(a['name'], a['node']) for a in node.json('alarm', 'list')]


def test(cluster):
    cluster.start()
    n1 = cluster.nodes[0]
    cluster.add_local_users(['ann', 'bob'])
    cluster.add_local_users(['filler%04d' % i for i in range(300)])
    chat = Chat(cluster)
    chat.start()
    wait('the chat flows', lambda: chat.check() > 5)

    n4 = cluster.new_node()
    n4.join(cluster.nodes[1], cluster.token(cluster.nodes[1]))
    n4.cut()
    n4.start()
    wait('n4 says that it is delayed', lambda: all(
        s['state'] == 'delayed' for s in n4.json('service', 'list', 'n4') if s['kind'] == 'feature'))
    p = subprocess.run(n4.command('curl', '-sk', '-w', ' %{http_code}', 'https://%s:8443/readyz' % n4.address), capture_output=True,
                       text=True, timeout=20)
    assert p.stdout.endswith(' 503') and 'replication' in p.stdout, 'not ready, and why: %s' % p.stdout
    wait('there is an alarm', lambda: ('ReplicationDelayStart', 'n4') in alarms(n1))
    before = chat.check()
    wait('the others run on', lambda: chat.check() > before + 20)
    for node in cluster.nodes[:3]:
        assert node.runs_services(), '%s is held back by n4' % node.name
    assert not n4.runs_services()
    n4.heal()
    cluster.wait_running([n4])
    wait('the alarm has been raised and is over', lambda: any(
        a['name'] == 'ReplicationDelayStart' and a['node'] == 'n4' and a['cleared_at'] for a in n1.json('alarm', 'list', '--all')))
    assert ('ReplicationDelayStart', 'n4') not in alarms(n1)
    wait('the notice is there', lambda: any(a['name'] == 'ReplicationEstablished' and a['node'] == 'n4'
                                            for a in n1.json('alarm', 'list', '--all')))
    wait('n4 has its role', lambda: state(n1, 'n4')['raft'] in ('voter', 'standby'))
    before = chat.check()
    wait('the chat goes on', lambda: chat.check() > before + 10)
    chat.stop = True
    chat.join(30)
    cluster.check_equal()


if __name__ == '__main__':
    run_test(test, lan=True)
