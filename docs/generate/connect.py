"""The drawing of how the pieces connect."""

from __future__ import annotations

from .svg import Drawing

__all__ = ["drawing"]


def drawing() -> str:
    """Return it."""
    card = Drawing(900, 330, "How the pieces connect")
    card.words(140, 28, ["your machine"], soft=True)
    card.words(450, 28, ["AWS, or a service of your own"], soft=True)
    card.words(760, 28, ["the device, behind NAT"], soft=True)
    card.box(40, 50, 200, 50, ["ssh, browser, program"], "plain")
    card.box(40, 150, 200, 64, ["source", "tailrace ssh, localproxy"], "strong")
    card.box(350, 150, 200, 64, ["service", "relays messages"], "strong")
    card.box(660, 150, 200, 64, ["destination", "tailrace agent, localproxy"], "strong")
    card.box(660, 50, 200, 50, ["sshd, web server, PLC"], "plain")
    card.box(350, 50, 200, 50, ["control API", "opens and closes tunnels"], "plain")
    card.arrow(140, 100, 140, 150)
    card.words(148, 130, ["TCP"], anchor="start", size=12, soft=True)
    card.arrow(760, 150, 760, 100)
    card.words(768, 130, ["TCP"], anchor="start", size=12, soft=True)
    card.arrow(240, 182, 350, 182)
    card.words(295, 200, ["WebSocket, TLS"], size=11, soft=True)
    card.arrow(660, 182, 550, 182)
    card.words(605, 200, ["WebSocket, TLS"], size=11, soft=True)
    card.bent([(240, 165), (290, 165), (290, 75), (350, 75)])
    card.words(292, 67, ["HTTPS"], size=11, soft=True)
    card.rule(450, 100, 450, 150)
    card.bent([(500, 214), (500, 258), (760, 258), (760, 214)])
    card.words(
        630,
        276,
        ["notification of the tunnel, with its token:", "MQTT, or HTTPS at the service itself"],
        size=12,
        soft=True,
    )
    card.words(
        20,
        276,
        [
            "Both ends connect outwards. Neither listens",
            "for the internet, and no firewall is opened.",
        ],
        anchor="start",
    )
    return card.render()
