# SPDX-License-Identifier: BSD-3-Clause
"""Take the pictures of the page Kernels that are in docs/, from a published site.

    .venv/bin/python tools/picture.py SITE FOLDER [RELEASE]

The tool opens SITE/index.html in Chromium. It selects `stop` in `blackhole` of the first kernel
whose release starts with RELEASE (default: 6.12), and then the first trial. It writes
FOLDER/kernels-1280.png and FOLDER/kernels-400.png.
"""

import shutil
import sys
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

LIMIT_S = 120
"""Seconds that the page may take to show an element. It takes tenths of a second."""

HEIGHT_AT_MOST = 1500
"""The height in pixels at which a picture is cut; only evidence is below."""


def main(site: Path, folder: Path, release: str) -> None:
    """Take both pictures."""
    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))

    def size(width: int, height: int) -> None:
        driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500},
        )

    def choose(selector: str) -> None:
        waiting = WebDriverWait(driver, LIMIT_S)
        waiting.until(lambda _: driver.find_elements(By.CSS_SELECTOR, selector))
        driver.find_element(By.CSS_SELECTOR, selector).click()

    try:
        for width in (1280, 400):
            size(width, 900)
            driver.get((site.absolute() / "index.html").as_uri())
            choose(f'#matrix button[aria-label^="{release}"][aria-label*=", stop in blackhole"]')
            choose("#dots .dot")
            WebDriverWait(driver, LIMIT_S).until(
                lambda _: driver.find_elements(By.CSS_SELECTOR, "#survival .line")
            )
            height = driver.execute_script("return document.documentElement.scrollHeight")
            size(width, min(height, HEIGHT_AT_MOST))
            driver.execute_script("scrollTo(0, 0)")
            driver.save_screenshot(str(folder / f"kernels-{width}.png"))
    finally:
        driver.quit()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else "6.12")
