"""The commonest words for colours, figures and patterns in German, French and Spanish, and what they mean in English.

The built-in model reads English. Each line below gives an English word that it knows, and forms of it in one language,
without accents. `~` stands for the endings of a German adjective. A word with `*` is a word of English, too: it counts
only beside another word of the same language.
"""

from collections.abc import Sequence

_ENDINGS = ("", "e", "er", "es", "en", "em")

_DICTIONARIES = {
    "German": """
red: rot* rote roter rotes roten rotem dunkelrot~ hellrot~
orange: orangefarben~ orangene orangenen
yellow: gelb~ hellgelb~
golden: goldene goldener goldenes goldenen
brown: braun~
green: grun~ gruen~ dunkelgrun~ hellgrun~
turquoise: turkis~ tuerkis~ turkisfarben~
blue: blau~
cyan: hellblau~ himmelblau~
navy: dunkelblau~ marineblau~
purple: lila purpur~
violet: violett~
pink: rosa rosafarben~
black: schwarz~
white: weiss~
grey: grau~
silver: silbern~ silber
dark: dunkel dunkle dunkler dunkles dunklen
bright: hell* helle heller helles hellen
calm: ruhig~ still*
wild: wilde wilder* wildes wilden
dreamy: vertraumt~ traumhaft~
warm: warme warmer* warmes warmen
cold: kalt~
soft: weich~ sanft~
hypnotic: hypnotisch~
psychedelic: psychedelisch~
electric: elektrisch~
flower: blume blumen blute bluten
star: stern* sterne sternen
heart: herz herzen
sun: sonne sonnen
moon: mond
eye: auge augen
tree: baum baume
mountain: berg* berge
sea: meer ozean
fire: feuer
butterfly: schmetterling schmetterlinge
fish: fisch fische
bird: vogel
face: gesicht gesichter
planet: planeten
galaxy: galaxie galaxien
crystal: kristall kristalle
feather: feder federn
leaf: blatt blatter
mushroom: pilz pilze
snowflake: schneeflocke schneeflocken
cat: katze katzen
spiral: spirale spiralen
rings: ringe
waves: welle wellen
stripes: streifen
circles: kreis kreise
dots: punkte
clouds: wolke wolken
flames: flamme flammen
rays: strahlen
vortex: wirbel strudel
kaleidoscope: kaleidoskop
triangles: dreieck dreiecke
hexagons: sechseck sechsecke waben
labyrinth: irrgarten
mosaic: mosaik
marble: marmor
bubbles: blasen seifenblasen
checkers: schachbrett
lattice: gitter
lightning: blitz* blitze
background: hintergrund grund* grunde
and: und
on: auf
with: mit
in: im
of: von vom
: der die* das des* dem den* ein eine einen einem einer eines
""",
    "French": """
red: rouge rouges
orange: orangee
yellow: jaune jaunes
golden: dore doree dores dorees
brown: brun brune bruns marron
green: vert verte verts vertes
turquoise: turquoises
blue: bleu bleue bleus bleues
purple: pourpre
violet: violette violettes violets*
pink: roses*
black: noir noire noirs noires
white: blanc blanche blancs blanches
grey: gris grise grises
silver: argente argentee
dark: sombre* sombres fonce foncee
bright: clair* claire* lumineux lumineuse
calm: calmes tranquille
wild: sauvage sauvages
dreamy: reveur onirique
warm: chaud chaude chaudes
cold: froid froide froides
soft: doux douce
hypnotic: hypnotique hypnotiques
psychedelic: psychedelique psychedeliques
electric: electrique electriques
flower: fleur fleurs
star: etoile etoiles
heart: coeur coeurs
sun: soleil
moon: lune
eye: oeil yeux
tree: arbre arbres
mountain: montagne montagnes
sea: mer*
fire: feu
butterfly: papillon papillons
fish: poisson poissons
bird: oiseau oiseaux
face: visage*
planet: planete planetes
galaxy: galaxie galaxies
crystal: cristal cristaux
leaf: feuille feuilles
mushroom: champignon champignons
snowflake: flocon flocons
cat: chat* chats*
spiral: spirale spirales
rings: anneau anneaux
waves: vague* vagues ondes
stripes: rayures bandes
circles: cercle cercles
dots: pois*
clouds: nuage nuages
flames: flamme flammes
rays: rayons
vortex: tourbillon tourbillons
labyrinth: labyrinthe
mosaic: mosaique
marble: marbre
bubbles: bulle bulles
checkers: damier
fractal: fractale fractales
lightning: eclair* eclairs*
background: fond*
and: et
on: sur
with: avec
in: dans
of: de du des*
: un une le les la* l d au aux en
""",
    "Spanish": """
red: rojo roja rojos rojas
orange: naranja naranjas anaranjado
yellow: amarillo* amarilla amarillos amarillas
golden: dorado* dorada dorados doradas oro
brown: castano pardo
green: verde verdes
turquoise: turquesa
blue: azul azules
purple: morado morada purpura
violet: violeta
pink: rosa rosado rosada
black: negro* negra negros* negras
white: blanco blanca blancos blancas
grey: gris grises
silver: plateado plateada plata
dark: oscuro oscura oscuros oscuras
bright: brillante brillantes claro clara*
calm: tranquilo tranquila
wild: salvaje salvajes
dreamy: onirico onirica
warm: calido calida
cold: frio fria
soft: suave*
hypnotic: hipnotico hipnotica
psychedelic: psicodelico psicodelica
electric: electrico electrica
flower: flor flores
star: estrella estrellas
heart: corazon corazones
sun: sol*
moon: luna
eye: ojo ojos
tree: arbol arboles
mountain: montana* montanas
sea: mar* oceano
fire: fuego
butterfly: mariposa mariposas
fish: pez peces
bird: pajaro pajaros
face: cara* rostro
planet: planeta planetas
galaxy: galaxia galaxias
crystal: cristal cristales
feather: pluma plumas
leaf: hoja hojas
mushroom: hongo hongos seta setas
snowflake: copo copos
cat: gato gata gatos
spiral: espiral espirales
rings: anillo anillos
waves: ola olas ondas
stripes: rayas franjas
circles: circulo circulos
dots: puntos
clouds: nube nubes
flames: llama* llamas*
rays: rayos
vortex: remolino torbellino
kaleidoscope: caleidoscopio
triangles: triangulo triangulos
labyrinth: laberinto
mosaic: mosaico
marble: marmol
bubbles: burbuja burbujas
checkers: ajedrez
lightning: relampago
background: fondo
and: y
on: sobre
with: con*
in: en
of: de del
: un una unos unas el* los* las* la*
""",
}


def _parsed(text: str) -> tuple[dict[str, str], set[str]]:
    """Read one dictionary: forms to English words ("" leaves the form out), and the forms that are English, too."""
    meanings: dict[str, str] = {}
    ambiguous: set[str] = set()
    for line in text.strip().splitlines():
        english, forms = line.split(":")
        for form in forms.split():
            stem = form.rstrip("~*")
            for ending in _ENDINGS if form.endswith("~") else ("",):
                meanings[stem + ending] = english
            if form.endswith("*"):
                ambiguous.add(stem)
    return meanings, ambiguous


MEANINGS = {language: _parsed(text) for language, text in _DICTIONARIES.items()}
_SMALL = {"and", "on", "with", "in", "of", ""}  # meanings that say nothing about what an image shows


def translate(words: Sequence[str], known: frozenset[str]) -> tuple[dict[str, str], str]:
    """Translate lower-case words without accents, if they are German, French or Spanish.

    Args:
        known: words that are English, and stay.

    Returns:
        The English of each foreign word, "" for one that is left out; and the language, "" if there is none. One small
        word such as "und" makes no language; two do, but nothing is translated.
    """
    best, translations = ("", 0), {}
    for language, (meanings, ambiguous) in MEANINGS.items():
        found = {word: meanings[word] for word in words if word in meanings and word not in known}
        certain = [meaning for word, meaning in found.items() if word not in ambiguous]
        content = sum(meaning not in _SMALL for meaning in certain)
        if content + len(certain) > best[1] and (content or len(certain) > 1):
            best, translations = (language, content + len(certain)), found if content else {}
    return translations, best[0]
